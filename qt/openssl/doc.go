// Package openssl is a [qt.TlsBackend] that has pre-shared keys (RFC 4279, RFC 8446 section 4.2.11), with the OpenSSL 3
// of the system. Neither crypto/tls nor a maintained Go package has them.
//
//	qt.SetActiveBackend(openssl.Backend{IdentityHint: "chat"})
//
// It needs cgo, a C compiler and OpenSSL's headers (libssl-dev), and is built only with the tag openssl:
//
//	go build -tags openssl
//
// The way without cgo is stunnel in front of a server without TLS; see docs/qt.md.
package openssl

import _ "github.com/foyerws/foyer/qt" // so that the module is the same without the tag
