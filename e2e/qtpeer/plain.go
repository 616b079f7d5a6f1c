//go:build !openssl

package main

func setBackend() { panic("built without OpenSSL") }
