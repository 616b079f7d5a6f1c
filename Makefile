.PHONY: test lint bench fuzz

FUZZTIME ?= 10m

test:
	go test -race work

lint:
	test -z "$$(gofmt -l .)"
	go vet work
	GOOS=darwin go vet ./...
	GOOS=windows go vet ./...
	staticcheck work

bench:
	go test -run '^$$' -bench . -benchmem ./...
	go run ./bench run -readme README.md -svg docs/bench.svg

fuzz:
	bash .ci/fuzz $(FUZZTIME)
