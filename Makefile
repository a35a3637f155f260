# SPDX-License-Identifier: Apache-2.0
# The short way in. CMake does the work; `cmake --list-presets` shows the other ways to build.
#   make              builds build/release/bin/flexgen and flexgen-bench
#   make demo         installs what is missing, builds, converts the bundled model and generates from three prompts
#   make test         installs what is missing, builds, runs all tests
#   make install PREFIX=/usr/local
#   make asan | tsan  builds with sanitizers and runs the tests
#   make fuzz         builds the fuzz targets and runs each for SECONDS (60)
#   make clean
PREFIX ?= /usr/local
SECONDS ?= 60
BUILD := build/release
FLEXGEN := $(BUILD)/bin/flexgen
JOBS ?= $(shell nproc)
GENERATOR := $(if $(shell command -v ninja),-G Ninja)
configured = $(wildcard build/$(1)/build.ninja build/$(1)/Makefile)
configure = $(if $(call configured,release),@true,cmake --preset release $(GENERATOR))

.PHONY: all demo test install asan tsan fuzz clean
all:
	@tools/setup.sh --check build
	$(configure)
	cmake --build $(BUILD) --parallel $(JOBS) --target flexgen flexgen-bench

demo:
	@tools/setup.sh build
	$(configure)
	cmake --build $(BUILD) --parallel $(JOBS) --target flexgen
	tools/demo.sh $(FLEXGEN) build/demo

test:
	@tools/setup.sh build test
	$(configure)
	cmake -DFLEXGEN_TESTS=ON $(BUILD)
	cmake --build $(BUILD) --parallel $(JOBS)
	ctest --preset release

install: all
	cmake --install $(BUILD) --prefix $(PREFIX)

asan tsan:
	@tools/setup.sh build test
	cmake --preset $@ $(if $(call configured,$@),,$(GENERATOR))
	cmake --build --preset $@ --parallel $(JOBS)
	ctest --preset $@

fuzz:
	@tools/setup.sh build test fuzz
	cmake --preset fuzz $(if $(call configured,fuzz),,$(GENERATOR))
	cmake --build --preset fuzz --parallel $(JOBS)
	tests/fuzz/run.sh $(SECONDS)

clean:
	rm -rf build
