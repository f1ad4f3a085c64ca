# fuzz.mk - builds and runs the fuzzers; included by the Makefile at the root.
#
#   make fuzz [SECONDS=60] [SEED=1]   all of them, SECONDS in all
#   make fuzz-build
#
# Clang only.  The core is built anew: ASan's checks become calls, which tests/fuzz/reads.c takes to
# see what the host reads, and the core's atomics report to it (HUB_INTERLEAVE).

FUZZ_CC ?= clang
FUZZ_OUT := build/fuzz
FUZZ_FLAGS := -std=c11 -O1 -g -Wall -Wextra -Werror -fPIC -pthread -MMD -MP -UNDEBUG \
	-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FUZZ_CALLS := -DHUB_INTERLEAVE -mllvm -asan-instrumentation-with-call-threshold=0
FUZZ_SUPPORT := check children fork_safely stage arena
FUZZ_TOOLS := fields lies reads cast host_work position
FUZZ_WRAPPED := malloc calloc realloc free pthread_create pread check_failed check_unsigned __asan_memcpy \
	$(addprefix __asan_load,1 2 4 8 16 N)
FUZZ_PROGRAMS := $(patsubst tests/fuzz/%.c,$(FUZZ_OUT)/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

FUZZ_CORE_OBJECTS := $(C_FILES:csrc/%.c=$(FUZZ_OUT)/core/%.o)
FUZZ_OBJECTS := $(FUZZ_SUPPORT:%=$(FUZZ_OUT)/support/%.o) $(FUZZ_TOOLS:%=$(FUZZ_OUT)/%.o)

$(FUZZ_OUT)/core/%.o: csrc/%.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) $(FUZZ_CALLS) -c $< -o $@

$(FUZZ_OUT)/support/%.o: tests/c/%.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) -DHUB_INTERLEAVE -iquote csrc -iquote tests/c -c $< -o $@

$(FUZZ_OUT)/%.o: tests/fuzz/%.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) -DHUB_INTERLEAVE -iquote csrc -iquote tests/c -iquote tests/fuzz -c $< -o $@

$(FUZZ_PROGRAMS): $(FUZZ_OUT)/%: $(FUZZ_OUT)/%.o $(FUZZ_OBJECTS) $(FUZZ_CORE_OBJECTS)
	$(FUZZ_CC) $(FUZZ_FLAGS) $(addprefix -Wl$(comma)--wrap=,$(FUZZ_WRAPPED)) -o $@ $^

# Coverage-guided: the core once more, with libFuzzer's counters and without calls.
COVER_OUT := $(FUZZ_OUT)/cover
COVER_PROGRAMS := $(patsubst tests/fuzz/%.c,$(FUZZ_OUT)/%,$(sort $(wildcard tests/fuzz/cover_*.c)))
COVER_CORE_OBJECTS := $(C_FILES:csrc/%.c=$(COVER_OUT)/%.o)

$(COVER_OUT)/%.o: csrc/%.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -c $< -o $@

$(COVER_PROGRAMS): $(FUZZ_OUT)/%: tests/fuzz/%.c tests/fuzz/seeds.h $(COVER_CORE_OBJECTS)
	$(FUZZ_CC) $(filter-out -MMD -MP,$(FUZZ_FLAGS)) -fsanitize=fuzzer -iquote csrc -iquote tests/fuzz -o $@ \
		$< $(COVER_CORE_OBJECTS)

fuzz-build: $(FUZZ_PROGRAMS) $(COVER_PROGRAMS)

fuzz: fuzz-build
	@.ci/fuzz $(or $(SECONDS),60) $(or $(SEED),1) $(FUZZ_OUT) $(FUZZ_PROGRAMS) $(COVER_PROGRAMS)

.PHONY: fuzz fuzz-build
.SECONDARY: $(COVER_CORE_OBJECTS) $(FUZZ_OBJECTS) $(FUZZ_CORE_OBJECTS) $(FUZZ_PROGRAMS:%=%.o)
-include $(wildcard $(FUZZ_OUT)/*.d $(FUZZ_OUT)/core/*.d $(FUZZ_OUT)/support/*.d $(COVER_OUT)/*.d)
