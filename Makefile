# Menagerie: what there is to do. Everything is built once, in one profile, and
# shared by the demo, the tests and the command-line program.

SHELL := bash
.DEFAULT_GOAL := help
BIN := $(or $(CARGO_TARGET_DIR),target)/debug

# How many rounds `make soak` makes.
ROUNDS ?= 10000
# A build of its own: `--cfg loom` is part of every crate's build.
LOOM := $(or $(CARGO_TARGET_DIR),target)/loom
# One for Miri, and one for AddressSanitizer: other code of every crate.
MIRI := $(or $(CARGO_TARGET_DIR),target)/miri
ASAN := $(or $(CARGO_TARGET_DIR),target)/asan
# What has no need of shared memory, sockets and processes, which Miri lacks.
PURE := test(/^(ring|lane::wait|lane::hand_over|msgpack|message|contract)::/)
# And one for what Menagerie is compared with.
PEERS := $(or $(CARGO_TARGET_DIR),target)/peers
WORKERS := $(foreach w,native python lua js dotnet,--package menagerie-worker-$(w))

.PHONY: help setup build demo test contract loom miri asan stress bench bench-peers soak faults chaos lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what lacks, and say what and why
	@scripts/setup

build: setup ## build the supervisor, the five workers and the sample bundles
	cargo build --locked --workspace --all-targets
	scripts/build-native-bundles dev

demo: build ## all five languages answer, are killed, and answer again
	$(BIN)/demo

test: build ## all tests
	cargo nextest run --locked --workspace --no-fail-fast
	cargo test --locked --workspace --doc

contract: setup ## write docs/contract.md from the tests' sources
	MENAGERIE_WRITE_CONTRACT=1 cargo test --locked --package menagerie-tests --test coverage

loom: setup ## check the lanes' protocols by their models
	CARGO_TARGET_DIR=$(LOOM) RUSTFLAGS="--cfg loom" \
		cargo nextest run --locked --release --package menagerie-protocol --lib models::

miri: setup ## the rings' own tests, by Miri: undefined behaviour and races; needs nightly Rust
	@cargo +nightly miri --version >/dev/null 2>&1 || { \
		echo "make miri: Miri is missing. With rustup:" \
			"rustup toolchain install nightly --component miri,rust-src"; exit 1; }
	CARGO_TARGET_DIR=$(MIRI) MIRIFLAGS="-Zmiri-strict-provenance" \
		cargo +nightly miri nextest run --locked --package menagerie-protocol --lib \
			--no-fail-fast -E '$(PURE)'

asan: setup ## the tests of protocol under AddressSanitizer; needs nightly Rust
	@cargo +nightly --version >/dev/null 2>&1 || { \
		echo "make asan: a nightly Rust is missing. With rustup:" \
			"rustup toolchain install nightly"; exit 1; }
	CARGO_TARGET_DIR=$(ASAN) RUSTFLAGS="-Zsanitizer=address" \
		cargo +nightly nextest run --locked --target x86_64-unknown-linux-gnu \
			--package menagerie-protocol --lib --no-fail-fast

stress: setup ## 10 million frames between two processes, and 1,000 seeds of random bytes
	cargo build --locked --profile stress --package menagerie-worker-lua
	RUST_LOG=off MENAGERIE_FRAMES=10000000 MENAGERIE_SEEDS=1000 cargo test --locked --profile stress \
		--package menagerie-tests --test integration -- --nocapture two_processes random_bytes

bench: setup ## measure calls beside what the machine allows; writes docs/bench
	cargo build --locked --release --package menagerie-supervisor $(WORKERS)
	scripts/build-native-bundles release
	$(or $(CARGO_TARGET_DIR),target)/release/menagerie bench --out docs/bench $(BENCH)

bench-peers: setup ## measure calls beside what one would pick instead; writes docs/bench/peers.*
	CARGO_TARGET_DIR=$(PEERS) cargo build --locked --release --package menagerie-worker-native \
		--bins --example probe_rust
	CARGO_TARGET_DIR=$(PEERS) cargo build --release --manifest-path tests/peers/Cargo.toml
	mkdir -p $(PEERS)/bundles/probe-rust
	cp $(PEERS)/release/examples/libprobe_rust.so $(PEERS)/bundles/probe-rust/
	$(PEERS)/release/menagerie-peers --worker-dir $(PEERS)/release --bundles $(PEERS)/bundles \
		--out docs/bench $(BENCH)

faults: build ## every fault in every language, and a table of what came of it
	$(BIN)/faults

chaos: build ## kill, stop, reload and restart at random, then check the books: SECONDS=30 SEED=1
	SECONDS=$(or $(SECONDS),30) $(if $(SEED),SEED=$(SEED)) $(BIN)/chaos

soak: build ## load and reload ROUNDS times in each language; fails if memory grows
	$(BIN)/soak --rounds $(ROUNDS) --out docs/soak

lint: setup ## formatting, clippy, rustdoc, and what the architecture forbids
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib \
		$(foreach p,protocol guest supervisor,--package menagerie-$(p))
	scripts/check-architecture
	if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check bans licenses sources; fi

clean: ## remove what was built, and the runtimes that the set-up brought
	cargo clean
	rm -rf .deps {tests/bundles,supervisor/examples/handlers}/*/*.{so,dll}
