# Compiler flags of Lockstep's own files, as one target.
find_package(OpenMP REQUIRED)
add_library(lockstep_flags INTERFACE)
target_compile_features(lockstep_flags INTERFACE cxx_std_20)
target_link_libraries(lockstep_flags INTERFACE OpenMP::OpenMP_CXX)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

set(cxx "$<COMPILE_LANGUAGE:CXX>")
# No errno and no traps from math: loops with sqrt vectorise. Sums keep their order: results are the same in every build of a loop.
# In a shared library a function may be inlined where it is called: nobody replaces ours at run time.
set(host_flags -fno-math-errno -fno-trapping-math -fno-semantic-interposition)
if(LOCKSTEP_NATIVE STREQUAL "OFF")
  list(APPEND host_flags -march=x86-64-v3)
else()
  string(REGEX REPLACE "^(AUTO|ON)$" "native" processor ${LOCKSTEP_NATIVE})
  # Whole 512-bit vectors where the processor has them; the compiler's default is 256.
  list(APPEND host_flags -march=${processor} -mprefer-vector-width=512)
endif()
target_compile_options(lockstep_flags INTERFACE "$<${cxx}:${host_flags};-Wall;-Wextra>")
if(LOCKSTEP_WITH_CUDA)
  # CMake 3.25 knows no C++20 for nvcc, and OpenMP::OpenMP_CXX does not reach files that nvcc compiles.
  list(JOIN host_flags "," joined)
  target_compile_options(lockstep_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;--diag-suppress=20012,20013,20014,20015,1675;-Xcompiler=-fopenmp,${joined}>")
endif()
if(LOCKSTEP_SANITIZE)
  target_compile_options(lockstep_flags INTERFACE "$<${cxx}:-fsanitize=${LOCKSTEP_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>")
  target_link_options(lockstep_flags INTERFACE -fsanitize=${LOCKSTEP_SANITIZE})
  set(LOCKSTEP_SANITIZER_SOURCES ${PROJECT_SOURCE_DIR}/tests/sanitizers/keep_modules.cpp)
endif()
