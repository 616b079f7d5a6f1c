package foyer

import (
	"context"
	"encoding/json"
	"fmt"
)

// WriteJSON sends v as a text message. Errors are json.Marshal's and [Socket.Write]'s.
func WriteJSON(ctx context.Context, s *Socket, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("foyer: %w", err)
	}
	return s.Write(ctx, Text, p)
}

// ReadJSON decodes any message into v. After invalid JSON the socket stays open. Other errors are [Socket.Read]'s.
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
