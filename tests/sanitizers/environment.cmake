# How tests run in a sanitized build: what libraries leak is left out, OpenMP has one thread (its library is not instrumented, so
# ThreadSanitizer would not see its barriers), and slow programs get their time.
set(environment
  "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_init_order=1"
  "LSAN_OPTIONS=suppressions='${CMAKE_CURRENT_LIST_DIR}/leaks.supp':print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=ignore_noninstrumented_modules=1:second_deadlock_stack=1")
if(LOCKSTEP_SANITIZE MATCHES "thread")
  # Nor do tests that ask for more threads say anything there.
  list(APPEND environment OMP_NUM_THREADS=1 "GTEST_FILTER=-Convolution.ThreadsDoNotMatter:*AnyNumberOfThreads")
endif()
get_property(tests DIRECTORY PROPERTY TESTS)
set_property(TEST ${tests} APPEND PROPERTY ENVIRONMENT ${environment})
set_property(TEST ${tests} PROPERTY TIMEOUT 1800)
