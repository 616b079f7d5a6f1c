module github.com/foyerws/foyer/qt/openssl

go 1.26.0

require github.com/foyerws/foyer v0.0.0

require (
	github.com/klauspost/compress v1.20.4 // indirect
	golang.org/x/net v0.55.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
	golang.org/x/text v0.37.0 // indirect
)

replace github.com/foyerws/foyer => ../..
