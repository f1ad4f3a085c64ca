# `make demo` and `make test` need a C compiler, make and Python >= 3.11, and nothing else; each
# makes its own virtual environment in .venv and builds there.
#
#   make check               what CI runs
#   make core                the C core as a static library, without Python
#   make test-c              its own tests; CC=gcc|clang, SAN=address,undefined|thread, WRAP=1
#   make test-c-arm64        the same for arm64, under qemu;  make test-c-valgrind: under memcheck
#   make site                the documentation as a site, in build/site
#   make prove               every process killed at every instruction, store and system call
#   make fuzz SECONDS=60     a peer that lies about every word there is (tests/fuzz)
#   make mutants             each safeguard of the core taken away in turn: a test has to notice
#   make soak SECONDS=60     16 peers with everything that may happen to a process
#   make bench bench-check   measurements, and the table of what must be reached
#
# PYTHON chooses the interpreter; by default the first one that is new enough.

NEW_ENOUGH := import sys, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 "$$HOME"/.pyenv/versions/*/bin/python; do \
	"$$p" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo "$$p" && break; done)

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

C_FILES := $(wildcard csrc/*.c)
C_HEADERS := $(wildcard csrc/*.h)
BINDING := $(wildcard csrc/python/*.c csrc/python/*.h)
BUILT_FROM := pyproject.toml setup.py $(C_FILES) $(C_HEADERS) $(BINDING)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test site soak soak-brief check core test-c test-c-all test-c-arm64 test-c-arm64-brief \
	test-c-valgrind test-c-valgrind-brief prove prove-sample mutants mutants-brief bench bench-check \
	lint format types types-mypy types-pyright check-first check-last \
	every-python dist clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# ---- Python ----------------------------------------------------------------------------------

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 with venv found: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.built: $(BIN)/python $(BUILT_FROM)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.built
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.built
	$(INSTALL) --editable '.[bench]'
	@touch $@

demo: $(VENV)/.built
	$(BIN)/python -m shmhub demo $(DIR)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Built by the example that builds sites, on a hub.
site: $(VENV)/.dev
	$(BIN)/python -m examples.site build docs build/site --title shmhub

# 16 peers with everything that may happen to a process; SOAK_ARGS='--seed N --kills PER_SECOND'.
SECONDS ?= 60
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak --seconds $(SECONDS) $(SOAK_ARGS)

soak-brief:
	@$(MAKE) --no-print-directory soak SECONDS=25

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

bench-check: $(VENV)/.bench
	$(BIN)/python -m benchmarks.check $(BENCH_ARGS)

LINTED := shmhub tests benchmarks examples setup.py

lint: $(VENV)/.dev
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)

# The stub of the compiled module is compared with the module itself.
AS_USERS_SEE_IT := tests/support/typed_plugin.py
types: types-mypy types-pyright
types-mypy: $(VENV)/.dev
	$(BIN)/mypy --strict shmhub
	$(BIN)/mypy --strict --ignore-missing-imports examples
	$(BIN)/mypy --strict $(AS_USERS_SEE_IT)
	$(BIN)/stubtest --allowlist .ci/stubtest-allowlist --ignore-unused-allowlist shmhub._core
types-pyright: $(VENV)/.dev
	@.ci/pyright $(BIN)/python shmhub $(AS_USERS_SEE_IT)

# ---- the C core, without Python --------------------------------------------------------------

CFLAGS ?= -O2 -g
SAN ?=
WRAP ?=
POINTS ?=
comma := ,
VARIANT := $(notdir $(firstword $(CC)))$(if $(SAN),-$(subst $(comma),-,$(SAN)))$(if $(WRAP),-wrap)$(if $(POINTS),-points)
OUT := build/core/$(VARIANT)
CORE_FLAGS := -std=c11 -Wall -Wextra -Werror -fvisibility=hidden -fPIC -pthread -MMD -MP \
	$(if $(WRAP),-DHUB_TEST_WRAP) $(if $(POINTS),-DHUB_INTERLEAVE) \
	$(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1)

CORE_OBJECTS := $(C_FILES:csrc/%.c=$(OUT)/core/%.o)
CORE_LIBRARY := $(OUT)/libshmhub.a
# tests/c/test_*.c is one program each; anything else there is linked into all of them.
# test_points_*.c stop a thread at an atomic operation and need a core that asks there.
TEST_SOURCES := $(sort $(wildcard tests/c/test_*.c))
TEST_PROGRAMS := $(patsubst tests/c/%.c,$(OUT)/tests/%, \
	$(if $(POINTS),$(filter tests/c/test_points_%,$(TEST_SOURCES)), \
	$(filter-out tests/c/test_points_%,$(TEST_SOURCES))))
# See tests/c/fork_safely.c.
# Bound at once: a stepped operation is not to include the dynamic linker's work.
TEST_LINK := -Wl$(comma)-z$(comma)now $(if $(findstring address,$(SAN)),-Wl$(comma)--wrap=malloc$(comma)--wrap=calloc$(comma)--wrap=realloc$(comma)--wrap=free$(comma)--wrap=pthread_create)
TEST_SUPPORT := $(patsubst tests/c/%.c,$(OUT)/tests/%.o,$(filter-out tests/c/test_%,$(wildcard tests/c/*.c)))

core: $(CORE_LIBRARY)

$(OUT)/core/%.o: csrc/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CORE_FLAGS) -c $< -o $@

$(CORE_LIBRARY): $(CORE_OBJECTS)
	rm -f $@
	$(AR) rcs $@ $^

$(OUT)/tests/%.o: tests/c/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CORE_FLAGS) -UNDEBUG -iquote csrc -iquote tests/c -c $< -o $@

$(TEST_PROGRAMS): $(OUT)/tests/%: $(OUT)/tests/%.o $(TEST_SUPPORT) $(CORE_LIBRARY)
	$(CC) $(CFLAGS) $(CORE_FLAGS) $(LDFLAGS) $(TEST_LINK) -o $@ $^

.SECONDARY: $(TEST_PROGRAMS:%=%.o) $(TEST_SUPPORT)

# ONLY='test_layout test_waiter': those programs; NOT: all but those.
ONLY ?=
NOT ?=
CHOSEN := $(filter-out $(NOT:%=$(OUT)/tests/%),$(if $(ONLY),$(ONLY:%=$(OUT)/tests/%),$(TEST_PROGRAMS)))
test-c: $(CHOSEN)
	@.ci/c-tests "$(VARIANT)" $(CHOSEN)

# The core for another processor, its tests under emulation: shows portability, not memory orders,
# which the emulated processor takes from this one. Left out: what steps processes (ptrace), and a
# forked child that starts threads (an assertion inside qemu 7).
STEPPING := $(notdir $(filter %_every_instruction %_every_store,$(TEST_PROGRAMS)))
ARM64 := aarch64-linux-gnu
QEMU_ARM64 := $(firstword $(notdir $(wildcard /usr/bin/qemu-aarch64 /usr/bin/qemu-aarch64-static)) qemu-aarch64)
ARM64_BRIEF := test_layout test_alloc_classes test_alloc_linked test_alloc_memory test_ring_model \
	test_ring_hostile test_segment test_doorbell test_waiter test_hub_messages test_hub_attach \
	test_hub_all test_hub_hostile test_hub_stop
test-c-arm64:
	@SHMHUB_C_TEST_RUNNER=$(QEMU_ARM64) $(MAKE) --no-print-directory test-c CC=$(ARM64)-gcc \
		AR=$(ARM64)-ar LDFLAGS=-static NOT='test_hub_threads $(STEPPING)'
test-c-arm64-brief:
	@$(MAKE) --no-print-directory test-c-arm64 ONLY='$(ARM64_BRIEF)'

# memcheck: what is read before it was written, which no sanitizer of gcc sees. Not its leak check
# (LeakSanitizer runs in the address variant; forked children end here with what their parent had),
# not helgrind and drd: to both every C11 atomic is a race.
VALGRIND := valgrind -q --fair-sched=yes --error-exitcode=99 --leak-check=no
VALGRIND_BRIEF := test_layout test_alloc_classes test_alloc_linked test_alloc_memory \
	test_ring_model test_ring_hostile test_segment test_segment_named test_waiter test_hub_messages
test-c-valgrind:
	@SHMHUB_C_TEST_RUNNER='$(VALGRIND)' $(MAKE) --no-print-directory test-c CC=gcc \
		NOT='$(STEPPING)'
test-c-valgrind-brief:
	@$(MAKE) --no-print-directory test-c-valgrind ONLY='$(VALGRIND_BRIEF)'

# Killed at every point: test_*_every_*.c. CI takes every seventh.
LONGEST := $(OUT)/tests/test_slots_every_instruction $(OUT)/tests/test_hub_every_instruction
PROVE_PROGRAMS := $(LONGEST) $(filter-out $(LONGEST), \
	$(filter %_every_instruction %_every_store,$(TEST_PROGRAMS)))
PROVE_STRIDE ?= 1
prove: $(PROVE_PROGRAMS)
	@.ci/prove $(PROVE_STRIDE) $(PROVE_PROGRAMS)

prove-sample:
	@$(MAKE) --no-print-directory prove PROVE_STRIDE=7

# Each atomic operation, fence and check changed in turn (tests/mutants/table.txt); MUTANTS_ARGS:
# see python -m tests.mutants --help. The brief form compares the table with the sources and runs a
# sample, always the same one: whether a change lands must not hang on a draw.
mutants:
	@$(PYTHON) -m tests.mutants $(MUTANTS_ARGS)

mutants-brief:
	@$(PYTHON) -m tests.mutants --brief --seed 1 $(MUTANTS_ARGS)

# gcc's own stepping is prove-sample. Stepping through ThreadSanitizer's own instructions takes for
# ever and shows no race.
test-c-all:
	$(MAKE) -j2 test-c CC=gcc NOT='$(STEPPING)'
	$(MAKE) -j2 test-c CC=clang NOT='$(STEPPING)'
	$(MAKE) -j2 test-c CC=gcc WRAP=1
	$(MAKE) -j2 test-c CC=gcc POINTS=1 NOT='$(STEPPING)'
	$(MAKE) -j2 test-c CC=clang SAN=address,undefined
	$(MAKE) -j2 test-c CC=clang SAN=thread NOT='$(STEPPING)'

-include $(wildcard $(OUT)/core/*.d $(OUT)/tests/*.d)

include tests/fuzz/fuzz.mk

# ---- everything ------------------------------------------------------------------------------

every-python:
	@.ci/every-python

dist: $(VENV)/.dev
	@.ci/dist $(BIN)/python

# Two beside each other where each needs one core alone.
check-first:
	@$(MAKE) --no-print-directory -j3 --output-sync=target lint types test-c-arm64-brief
check-last:
	@$(MAKE) --no-print-directory -j2 --output-sync=target soak-brief dist

CHECKS := check-first test-c-all test-c-valgrind-brief prove-sample mutants-brief fuzz \
	every-python check-last
check:
	@for name in $(CHECKS); do \
		began=$$(date +%s); \
		echo "::: make $$name"; \
		$(MAKE) --no-print-directory $$name || { echo "::: make $$name FAILED"; exit 1; }; \
		echo "::: make $$name took $$(( $$(date +%s) - began )) s"; \
	done

clean:
	rm -rf build dist .venv shmhub/lib shmhub/include shmhub/*.so *.egg-info
