module github.com/foyerws/foyer/examples/http3

go 1.26.0

replace github.com/foyerws/foyer => ../../

require (
	github.com/foyerws/foyer v0.0.0
	github.com/quic-go/quic-go v0.59.1
)

require (
	github.com/klauspost/compress v1.20.4 // indirect
	github.com/quic-go/qpack v0.6.0 // indirect
	golang.org/x/crypto v0.51.0 // indirect
	golang.org/x/net v0.55.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
	golang.org/x/text v0.37.0 // indirect
)
