package foyer

import (
	"context"
	"net/http"
	"sync"
)

// SetValue lets middleware and Authorize store a value in r for [Socket.Value]. key is as for context.WithValue. Nil
// removes it.
func SetValue(r *http.Request, key, value any) {
	v, ok := r.Context().Value(valuesKey{}).(*values)
	if !ok {
		v = new(values)
		*r = *r.WithContext(context.WithValue(r.Context(), valuesKey{}, v))
	}
	v.set(key, value)
}

// Value returns the value for key, or nil, even after the socket has ended.
func (s *Socket) Value(key any) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil {
		return nil
	}
	return s.extra.values.get(key)
}

// SetValue stores a value for key. Nil removes it.
func (s *Socket) SetValue(key, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.more()
	if x.values == nil {
		x.values = new(values)
	}
	x.values.set(key, value)
}

// adoptValues gives the socket the values that were stored in its request.
func (s *Socket) adoptValues(r *http.Request) {
	if v, ok := r.Context().Value(valuesKey{}).(*values); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.more().values = v
	}
}

type valuesKey struct{}

// values are what a program has stored for a socket.
type values struct {
	mu sync.Mutex // guards:
	m  map[any]any
}

func (v *values) get(key any) any {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.m[key]
}

func (v *values) set(key, value any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if value == nil {
		delete(v.m, key)
		return
	}
	if v.m == nil {
		v.m = make(map[any]any)
	}
	v.m[key] = value
}
