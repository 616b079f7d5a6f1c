package foyer

import (
	"context"
	"encoding/json"
	"fmt"
)

// WriteJSON sends v, encoded by encoding/json, as one text message. Errors are those of json.Marshal, with nothing sent,
// and those of [Socket.Write].
func WriteJSON(ctx context.Context, s *Socket, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("foyer: %w", err)
	}
	return s.Write(ctx, Text, p)
}

// ReadJSON waits for the next message, text or binary, and decodes it into v by encoding/json. A message that is not
// JSON, or does not fit v, is an error and leaves the socket as it is. Other errors are those of [Socket.Read].
func ReadJSON(ctx context.Context, s *Socket, v any) error {
	_, p, err := s.Read(ctx)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(p, v); err != nil {
		return fmt.Errorf("foyer: %w", err)
	}
	return nil
}
