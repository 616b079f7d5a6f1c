//go:build openssl

package main

import (
	"github.com/foyerws/foyer/qt"
	"github.com/foyerws/foyer/qt/openssl"
)

func setBackend() {
	qt.SetActiveBackend(openssl.Backend{IdentityHint: "the hint"})
}
