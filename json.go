package foyer

import (
	"context"
	"encoding/json"
	"fmt"
)

// WriteJSON sends v, encoded with encoding/json, as a text message. Errors are those of json.Marshal and
// [Socket.Write].
func WriteJSON(ctx context.Context, s *Socket, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("foyer: %w", err)
	}
	return s.Write(ctx, Text, p)
}

// ReadJSON reads the next message and decodes it into v with encoding/json. Invalid JSON is an error and leaves the
// socket open. Other errors are those of [Socket.Read].
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
