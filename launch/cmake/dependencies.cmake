# What Lockstep builds on. Missing packages are named together with the Debian package that has them.
find_package(PkgConfig REQUIRED)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
set(MPI_DETERMINE_LIBRARY_VERSION TRUE)
find_package(MPI REQUIRED COMPONENTS CXX)                 # libopenmpi-dev openmpi-bin
# libdnnl-dev; its own CMake file wants OpenCL headers that it does not ship
find_library(DNNL_LIBRARY dnnl REQUIRED)
find_path(DNNL_INCLUDE_DIR dnnl.hpp REQUIRED)
file(STRINGS ${DNNL_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h dnnl_numbers REGEX "DNNL_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE "[^0-9;]" "" dnnl_VERSION "${dnnl_numbers}")
string(REPLACE ";" "." dnnl_VERSION "${dnnl_VERSION}")
add_library(lockstep_dnnl INTERFACE IMPORTED)
target_include_directories(lockstep_dnnl INTERFACE ${DNNL_INCLUDE_DIR})
target_link_libraries(lockstep_dnnl INTERFACE ${DNNL_LIBRARY})
find_package(fmt REQUIRED)                                # libfmt-dev
find_package(spdlog REQUIRED)                             # libspdlog-dev
find_package(nlohmann_json REQUIRED)                      # nlohmann-json3-dev
find_package(CLI11 REQUIRED)                              # libcli11-dev
find_package(ZLIB REQUIRED)                               # zlib1g-dev
find_package(PNG REQUIRED)                                # libpng-dev
find_package(JPEG REQUIRED)                               # libjpeg-dev
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)            # libpcre2-dev
pkg_check_modules(zip REQUIRED IMPORTED_TARGET libzip)                   # libzip-dev
pkg_check_modules(tomlplusplus REQUIRED IMPORTED_TARGET tomlplusplus)   # libtomlplusplus-dev
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)            # libxxhash-dev
pkg_check_modules(hwloc REQUIRED IMPORTED_TARGET hwloc)                 # libhwloc-dev
pkg_check_modules(deflate REQUIRED IMPORTED_TARGET libdeflate)          # libdeflate-dev
add_library(tomlplusplus::tomlplusplus ALIAS PkgConfig::tomlplusplus)
add_library(xxhash::xxhash ALIAS PkgConfig::xxhash)
add_library(lockstep_hwloc ALIAS PkgConfig::hwloc)
add_library(lockstep_deflate ALIAS PkgConfig::deflate)
set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 REQUIRED COMPONENTS C)                  # libhdf5-dev, the serial library
add_library(lockstep_hdf5 INTERFACE IMPORTED)
target_include_directories(lockstep_hdf5 INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(lockstep_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

# ---- CUDA: all of the toolkit, cuDNN and NCCL, or none
set(LOCKSTEP_WITH_CUDA FALSE)
if(NOT LOCKSTEP_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 90)
    endif()
    set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)   # one runtime for all five libraries
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    find_library(CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
    find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    if(CUDNN_LIBRARY AND CUDNN_INCLUDE_DIR AND NCCL_LIBRARY AND NCCL_INCLUDE_DIR)
      set(LOCKSTEP_WITH_CUDA TRUE)
    endif()
  endif()
  if(LOCKSTEP_CUDA STREQUAL "ON" AND NOT LOCKSTEP_WITH_CUDA)
    message(FATAL_ERROR "LOCKSTEP_CUDA=ON needs nvcc (${CMAKE_CUDA_COMPILER}), cuDNN (${CUDNN_LIBRARY}) and NCCL (${NCCL_LIBRARY}).")
  endif()
endif()

set(LOCKSTEP_KERNEL_LIBRARIES lockstep_dnnl)
set(LOCKSTEP_CORE_LIBRARIES)
set(LOCKSTEP_PARALLEL_LIBRARIES)
if(LOCKSTEP_WITH_CUDA)
  add_library(lockstep_cudnn INTERFACE IMPORTED)
  target_include_directories(lockstep_cudnn INTERFACE ${CUDNN_INCLUDE_DIR})
  include(cudnn_frontend)
  if(CUDNN_FRONTEND_INCLUDE_DIR)
    target_include_directories(lockstep_cudnn SYSTEM INTERFACE ${CUDNN_FRONTEND_INCLUDE_DIR})
  endif()
  target_link_libraries(lockstep_cudnn INTERFACE ${CUDNN_LIBRARY})
  add_library(lockstep_nccl INTERFACE IMPORTED)
  target_include_directories(lockstep_nccl INTERFACE ${NCCL_INCLUDE_DIR})
  target_link_libraries(lockstep_nccl INTERFACE ${NCCL_LIBRARY})
  list(APPEND LOCKSTEP_KERNEL_LIBRARIES CUDA::cudart CUDA::cublasLt lockstep_cudnn)
  list(APPEND LOCKSTEP_CORE_LIBRARIES CUDA::cudart)
  list(APPEND LOCKSTEP_PARALLEL_LIBRARIES CUDA::cudart lockstep_nccl)
endif()

function(lockstep_status)
  message(STATUS "")
  message(STATUS "Lockstep ${PROJECT_VERSION}")
  message(STATUS "  compiler   ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}, ${CMAKE_BUILD_TYPE}, native ${LOCKSTEP_NATIVE}")
  string(REGEX REPLACE ",.*" "" mpi "${MPI_CXX_LIBRARY_VERSION_STRING}")
  message(STATUS "  MPI        ${mpi} (MPI ${MPI_CXX_VERSION})")
  message(STATUS "  HDF5       ${HDF5_VERSION}")
  message(STATUS "  oneDNN     ${dnnl_VERSION}")
  if(LOCKSTEP_WITH_CUDA)
    message(STATUS "  CUDA       ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}; ${CUDNN_LIBRARY}; ${NCCL_LIBRARY}")
    message(STATUS "  attention  cuDNN's frontend: ${CUDNN_FRONTEND_INCLUDE_DIR}")
  else()
    message(STATUS "  CUDA       not built in (LOCKSTEP_CUDA=${LOCKSTEP_CUDA}; nvcc: ${CMAKE_CUDA_COMPILER})")
  endif()
  message(STATUS "  tests      ${LOCKSTEP_TESTS}      benchmarks ${LOCKSTEP_BENCHMARKS}")
  message(STATUS "")
endfunction()
