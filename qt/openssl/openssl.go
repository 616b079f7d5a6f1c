//go:build cgo && openssl

package openssl

/*
#cgo pkg-config: openssl
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern unsigned int foyerServerKey(uintptr_t conn, char *identity, unsigned char *key, unsigned int max);
extern unsigned int foyerClientKey(uintptr_t conn, char *hint, char *identity, unsigned int max_identity, unsigned char *key, unsigned int max_key);

static unsigned int server_key(SSL *ssl, const char *identity, unsigned char *key, unsigned int max) {
	return foyerServerKey((uintptr_t)SSL_get_app_data(ssl), (char *)identity, key, max);
}

static unsigned int client_key(SSL *ssl, const char *hint, char *identity, unsigned int max_identity, unsigned char *key, unsigned int max_key) {
	return foyerClientKey((uintptr_t)SSL_get_app_data(ssl), (char *)hint, identity, max_identity, key, max_key);
}

// open_ssl returns an SSL between two memory BIOs, or NULL.
static SSL *open_ssl(int server, const char *ciphers, const char *hint, uintptr_t conn) {
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!ctx)
		return NULL;
	SSL *ssl = NULL;
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify(ctx, server ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL); // a server without the key must not get away with a certificate
	if (server)
		SSL_CTX_set_psk_server_callback(ctx, server_key);
	else
		SSL_CTX_set_psk_client_callback(ctx, client_key);
	if (in && out && SSL_CTX_set_cipher_list(ctx, ciphers) && (!hint[0] || SSL_CTX_use_psk_identity_hint(ctx, hint)))
		ssl = SSL_new(ctx);
	SSL_CTX_free(ctx); // ssl holds it
	if (!ssl) {
		BIO_free(in);
		BIO_free(out);
		return NULL;
	}
	SSL_set_app_data(ssl, (void *)conn);
	SSL_set_bio(ssl, in, out);
	if (server)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	return ssl;
}

// result returns what SSL_get_error says of the call that returned n. The queue of errors is that of the thread.
static int result(SSL *ssl, int n, char *text, size_t size) {
	int code = SSL_get_error(ssl, n);
	text[0] = 0;
	if (code == SSL_ERROR_SSL)
		ERR_error_string_n(ERR_peek_error(), text, size);
	ERR_clear_error();
	return code;
}

static int do_handshake(SSL *ssl, int *code, char *text, size_t size) {
	ERR_clear_error();
	int n = SSL_do_handshake(ssl);
	*code = result(ssl, n, text, size);
	return n;
}

static int do_read(SSL *ssl, void *p, int len, int *code, char *text, size_t size) {
	ERR_clear_error();
	int n = SSL_read(ssl, p, len);
	*code = result(ssl, n, text, size);
	return n;
}

static int do_write(SSL *ssl, const void *p, int len, int *code, char *text, size_t size) {
	ERR_clear_error();
	int n = SSL_write(ssl, p, len);
	*code = result(ssl, n, text, size);
	return n;
}

static int put(SSL *ssl, const void *p, int len) { return BIO_write(SSL_get_rbio(ssl), p, len); }
static int take(SSL *ssl, void *p, int len) { return BIO_read(SSL_get_wbio(ssl), p, len); }
static long pending(SSL *ssl) { return BIO_pending(SSL_get_wbio(ssl)); }
*/
import "C"

import (
	"errors"
	"io"
	"net"
	"runtime/cgo"
	"sync"
	"time"
	"unsafe"

	"github.com/foyerws/foyer/qt"
)

// A Backend performs TLS 1.2 and 1.3 handshakes with pre-shared keys, and with nothing else: certificates, and all else
// that an [qt.SslConfiguration] has, are not used. The zero value works.
type Backend struct {
	// IdentityHint is what a server sends to tell clients which identity to use. TLS 1.3 has no hint.
	IdentityHint string

	// Ciphers are the cipher suites for TLS 1.2, as OpenSSL names them. Empty means "PSK+HIGH".
	Ciphers string
}

var _ qt.TlsBackend = Backend{}

// Server implements qt.TlsBackend.
func (b Backend) Server(conn net.Conn, _ qt.SslConfiguration, psk func(*qt.SslPreSharedKeyAuthenticator)) net.Conn {
	return b.open(conn, true, psk)
}

// Client implements qt.TlsBackend.
func (b Backend) Client(conn net.Conn, _ qt.SslConfiguration, psk func(*qt.SslPreSharedKeyAuthenticator)) net.Conn {
	return b.open(conn, false, psk)
}

func (b Backend) open(conn net.Conn, server bool, psk func(*qt.SslPreSharedKeyAuthenticator)) net.Conn {
	ciphers := b.Ciphers
	if ciphers == "" {
		ciphers = "PSK+HIGH"
	}
	names, hint := C.CString(ciphers), C.CString(b.IdentityHint)
	defer C.free(unsafe.Pointer(names))
	defer C.free(unsafe.Pointer(hint))
	c := &secured{Conn: conn, psk: psk}
	c.handle = cgo.NewHandle(c)
	side := C.int(0)
	if server {
		side = 1
	}
	if c.ssl = C.open_ssl(side, names, hint, C.uintptr_t(c.handle)); c.ssl == nil {
		c.err = errors.New("openssl: cannot set up TLS with these ciphers")
		c.free()
	}
	return c
}

// A secured is a connection with TLS. OpenSSL works in memory only: all that waits is done here, without the lock.
type secured struct {
	net.Conn
	psk    func(*qt.SslPreSharedKeyAuthenticator)
	handle cgo.Handle

	handshake sync.Mutex // held by the goroutine that makes it
	reading   sync.Mutex // held by a Read, which alone reads from the connection after the handshake
	writing   sync.Mutex // held while what has come out is sent, so that it leaves in order

	mu   sync.Mutex // guards:
	ssl  *C.SSL     // nil at the end
	done bool       // the handshake is over
	err  error      // what has ended it all

	failure error // of the handshake
}

// A call is one of the functions of OpenSSL that may want more input. The caller has c.mu.
type call func(code *C.int, text *C.char, size C.size_t) C.int

// do makes a call until it does not want more input, and sends what comes out, which is all of it if whole is true. input
// reads what is wanted.
func (c *secured) do(f call, whole bool, input func() error) (int, error) {
	return c.doGated(f, func() (leave func()) { return func() {} }, whole, input)
}

// doGated is do with a function that is called before each call; what it returns is called after it.
func (c *secured) doGated(f call, enter func() (leave func()), whole bool, input func() error) (int, error) {
	for {
		leave := enter()
		n, again, err := c.try(f)
		leave()
		if sent := c.send(whole); err == nil && sent != nil {
			return 0, sent
		}
		if err != nil || !again {
			return n, err
		}
		if err := input(); err != nil {
			return 0, err
		}
	}
}

// try makes a call once.
func (c *secured) try(f call) (n int, again bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, false, c.err
	}
	var code C.int
	var text [256]C.char
	n = int(f(&code, &text[0], C.size_t(len(text))))
	switch code {
	case C.SSL_ERROR_NONE:
		return n, false, nil
	case C.SSL_ERROR_WANT_READ:
		return 0, true, nil
	case C.SSL_ERROR_ZERO_RETURN:
		c.err = io.EOF
	case C.SSL_ERROR_SSL:
		c.err = errors.New("tls: " + C.GoString(&text[0]))
		if !c.done {
			c.failure = c.err
		}
	default:
		c.err = io.ErrUnexpectedEOF
	}
	return 0, false, c.err
}

// receive reads from the network.
func (c *secured) receive() error {
	var b [16 << 10]byte
	n, err := c.Conn.Read(b[:])
	if n == 0 {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // nothing said that the peer was done
		}
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ssl == nil {
		return net.ErrClosed
	}
	if C.put(c.ssl, unsafe.Pointer(&b[0]), C.int(n)) != C.int(n) {
		return io.ErrShortWrite
	}
	return nil
}

// send writes to the network what has come out of OpenSSL. If another goroutine is doing that, send waits for it if whole is
// true; otherwise that goroutine will find what has come out. A Read must not wait for a Write: the peer may be doing the
// same, and then both would wait forever.
func (c *secured) send(whole bool) error {
	for c.hasOutput() {
		if whole {
			c.writing.Lock()
		} else if !c.writing.TryLock() {
			return nil
		}
		err := c.sendLocked()
		c.writing.Unlock() // and look once more: somebody may have relied on this goroutine
		if err != nil {
			return err
		}
	}
	return nil
}

// sendLocked is send for a caller that has c.writing.
func (c *secured) sendLocked() error {
	var b [17 << 10]byte
	for {
		n := c.takeOut(b[:])
		if n <= 0 {
			return nil
		}
		if _, err := c.Conn.Write(b[:n]); err != nil {
			return err
		}
	}
}

// hasOutput reports whether something has come out of OpenSSL.
func (c *secured) hasOutput() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ssl != nil && C.pending(c.ssl) > 0
}

func (c *secured) takeOut(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ssl == nil {
		return 0
	}
	return int(C.take(c.ssl, unsafe.Pointer(&b[0]), C.int(len(b))))
}

// shake makes the handshake, the first time it is called.
func (c *secured) shake() error {
	c.handshake.Lock()
	defer c.handshake.Unlock()
	c.mu.Lock()
	done := c.done
	c.mu.Unlock()
	if done {
		return nil
	}
	_, err := c.doGated(func(code *C.int, text *C.char, size C.size_t) C.int { return C.do_handshake(c.ssl, code, text, size) },
		ask, true, c.receive)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = err == nil
	return err
}

// asking limits the handshakes that are in OpenSSL at the same time: while one of them waits for its key, it holds a thread.
var asking = make(chan struct{}, 64)

func ask() (done func()) {
	asking <- struct{}{}
	return func() { <-asking }
}

func (c *secured) Read(p []byte) (int, error) {
	if err := c.shake(); err != nil || len(p) == 0 {
		return 0, err
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.do(func(code *C.int, text *C.char, size C.size_t) C.int {
		return C.do_read(c.ssl, unsafe.Pointer(&p[0]), C.int(min(len(p), 1<<20)), code, text, size)
	}, false, c.receive)
}

func (c *secured) Write(p []byte) (n int, err error) {
	if err := c.shake(); err != nil {
		return 0, err
	}
	for n < len(p) {
		piece := p[n:min(n+16<<10, len(p))]
		wrote, err := c.do(func(code *C.int, text *C.char, size C.size_t) C.int {
			return C.do_write(c.ssl, unsafe.Pointer(&piece[0]), C.int(len(piece)), code, text, size)
		}, true, func() error { return io.ErrNoProgress }) // without renegotiation a write wants no input
		if err != nil {
			return n, err
		}
		n += wrote
	}
	return n, nil
}

// Close closes the connection. The peer is told that it is at its end, if that does not take long.
func (c *secured) Close() error {
	if !c.mu.TryLock() { // perhaps the handshake waits for its key
		err := c.Conn.Close()
		go c.free()
		return err
	}
	if c.ssl != nil && c.done && c.err == nil {
		C.SSL_shutdown(c.ssl)
		C.ERR_clear_error()
	}
	c.mu.Unlock()
	if c.writing.TryLock() {
		c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		c.sendLocked()
		c.writing.Unlock()
	}
	err := c.Conn.Close()
	c.free()
	return err
}

// TLSError returns why the handshake has failed, or nil.
func (c *secured) TLSError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

// free gives OpenSSL's memory back.
func (c *secured) free() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = net.ErrClosed
	}
	if c.ssl != nil {
		C.SSL_free(c.ssl)
		c.ssl = nil
	}
	if c.handle != 0 {
		c.handle.Delete()
		c.handle = 0
	}
}

//export foyerServerKey
func foyerServerKey(conn C.uintptr_t, identity *C.char, key *C.uchar, size C.uint) C.uint {
	if identity == nil {
		return 0
	}
	c := cgo.Handle(conn).Value().(*secured)
	a := qt.NewSslPreSharedKeyAuthenticator(nil, []byte(C.GoString(identity)), C.PSK_MAX_IDENTITY_LEN, int(size))
	c.psk(a)
	return keyTo(key, size, a.PreSharedKey())
}

//export foyerClientKey
func foyerClientKey(conn C.uintptr_t, hint, identity *C.char, identitySize C.uint, key *C.uchar, size C.uint) C.uint {
	c := cgo.Handle(conn).Value().(*secured)
	var said []byte
	if hint != nil {
		said = []byte(C.GoString(hint))
	}
	a := qt.NewSslPreSharedKeyAuthenticator(said, nil, int(identitySize)-1, int(size))
	c.psk(a)
	who := a.Identity()
	if len(who) >= int(identitySize) {
		return 0
	}
	to := unsafe.Slice((*byte)(unsafe.Pointer(identity)), int(identitySize))
	to[copy(to, who)] = 0
	return keyTo(key, size, a.PreSharedKey())
}

// keyTo copies a key to where OpenSSL wants it. 0 is no key.
func keyTo(to *C.uchar, size C.uint, key []byte) C.uint {
	if len(key) > int(size) {
		return 0
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(to)), int(size)), key)
	return C.uint(len(key))
}
