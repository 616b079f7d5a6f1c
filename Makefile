# The steps are those of .ci/run; make lint runs some of them.
.PHONY: test short lint all bench fuzz e2e hostile faults mutate

FUZZTIME ?= 10m

test:
	go test -race work

short:
	go test -short work

lint:
	bash .ci/run gofmt vet staticcheck tidy workflows

all:
	bash .ci/run

bench:
	go test -run '^$$' -bench . -benchmem ./...
	go run ./bench run -readme README.md -report docs/bench.md -svg docs/bench.svg

fuzz:
	bash .ci/fuzz $(FUZZTIME)

e2e:
	npm ci --prefix e2e/node --no-audit --no-fund
	FOYER_E2E=all FOYER_SCREENSHOT=$(CURDIR)/docs/echo.png FOYER_SCREENSHOTS=$(CURDIR)/docs go test -count=1 -v ./e2e

hostile:
	go run ./e2e/hostile

faults:
	go run ./e2e/cluster -runs 10

mutate:
	FOYER_MUTATE=1 go test -timeout 30m -run TestMutations -v .
