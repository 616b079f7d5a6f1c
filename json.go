package foyer

import (
	"context"
	"encoding/json"
	"fmt"
)

// WriteJSON sends v as a text message of JSON. Errors are those of json.Marshal and [Socket.Write].
func WriteJSON(ctx context.Context, s *Socket, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("foyer: %w", err)
	}
	return s.Write(ctx, Text, p)
}

// ReadJSON reads a message and decodes it into v. After invalid JSON the socket stays open. Other errors are those of
// [Socket.Read].
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
