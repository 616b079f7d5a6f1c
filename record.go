package foyer

import (
	"context"
	"encoding/binary"
	"net/http"
	"net/url"
	"time"
)

// A record is what is kept of a request: little, since every open socket has one.
type record struct {
	packed string        // the header and, where base is nil, what stands before it
	url    *url.URL      // if it is not what the request said
	base   *http.Request // all the rest, of a request that net/http has parsed
}

// keep returns the record of a request that was parsed here.
func keep(r *http.Request) record {
	var k record
	if !isAsAsked(r) {
		k.url = r.URL
	}
	k.packed = pack(r.Header, r.Method, r.RequestURI, r.Proto, r.Host)
	return k
}

// keepBase returns the record of a request that net/http has parsed, or somebody else, which outlives the handler that
// got it.
func keepBase(r *http.Request) record {
	base := new(http.Request)
	*base = *r
	base.Header, base.Trailer = nil, nil
	if isAsAsked(r) {
		base.URL = nil
	}
	base.Body, base.GetBody, base.Response, base.MultipartForm = http.NoBody, nil, nil, nil
	return record{packed: pack(r.Header), base: base.Clone(detached{r.Context()})}
}

// isAsAsked reports whether the URL of r is what its request line says, so that it need not be kept.
func isAsAsked(r *http.Request) bool {
	asked, err := url.ParseRequestURI(r.RequestURI)
	return err == nil && *asked == *r.URL
}

// unpack returns the request.
func (k record) unpack() *http.Request {
	if k.base != nil {
		r := k.base.Clone(k.base.Context())
		_, r.Header = unpack(k.packed, 0)
		if r.URL == nil {
			r.URL, _ = url.ParseRequestURI(r.RequestURI)
		}
		return r
	}
	first, header := unpack(k.packed, 4)
	r := &http.Request{Method: first[0], RequestURI: first[1], Proto: first[2], Host: first[3], Header: header, Body: http.NoBody}
	r.ProtoMajor, r.ProtoMinor, _ = http.ParseHTTPVersion(r.Proto)
	if k.url == nil {
		r.URL, _ = url.ParseRequestURI(r.RequestURI)
		return r
	}
	u := *k.url
	r.URL = &u
	return r
}

// pack puts strings and a header into one string, each behind its length.
func pack(header http.Header, first ...string) string {
	size := 0
	for _, s := range first {
		size += len(s) + 2
	}
	for name, values := range header {
		for _, v := range values {
			size += len(name) + len(v) + 3
		}
	}
	b := make([]byte, 0, size)
	add := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for _, s := range first {
		add(s)
	}
	for name, values := range header {
		for _, v := range values {
			add(name)
			add(v)
		}
	}
	return string(b)
}

// unpack returns the n strings that were packed before the header, and the header.
func unpack(packed string, n int) ([]string, http.Header) {
	b := []byte(packed)
	next := func() string {
		size, m := binary.Uvarint(b)
		s := packed[len(packed)-len(b)+m:][:size]
		b = b[m+int(size):]
		return s
	}
	first := make([]string, n)
	for i := range first {
		first[i] = next()
	}
	header := make(http.Header)
	for len(b) > 0 {
		name := next()
		header[name] = append(header[name], next())
	}
	return first, header
}

// detached is a request's context without its end: net/http cancels it as soon as the handler returns, while the
// socket lives on.
type detached struct{ context.Context }

func (detached) Deadline() (time.Time, bool) { return time.Time{}, false }
func (detached) Done() <-chan struct{}       { return nil }
func (detached) Err() error                  { return nil }

// Value returns the request's value for key, unless its owner recycles it. Some routers, chi among them, keep their
// parameters in an object that serves the next request once this one's handler has returned; such objects have a Reset
// method. Nothing is better than somebody else's parameters. http.Request.PathValue has the parameters all the same.
func (d detached) Value(key any) any {
	v := d.Context.Value(key)
	if _, recycled := v.(interface{ Reset() }); recycled {
		return nil
	}
	return v
}
