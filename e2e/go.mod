module github.com/foyerws/foyer/e2e

go 1.25.0

require (
	github.com/coder/websocket v1.8.15
	github.com/foyerws/foyer v0.0.0
	github.com/gorilla/websocket v1.5.3
)

require (
	github.com/chromedp/cdproto v0.159.0 // indirect
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
)

require (
	github.com/chromedp/chromedp v0.23.0
	github.com/pires/go-proxyproto v0.15.0
	golang.org/x/net v0.55.0 // indirect
	golang.org/x/sys v0.45.0
	golang.org/x/text v0.37.0 // indirect
)

replace github.com/foyerws/foyer => ../
