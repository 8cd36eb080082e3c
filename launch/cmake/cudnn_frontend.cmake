# cuDNN's frontend: headers only, in no Debian package. Taken where they are found, else from PyPI's package of that name, of which
# nothing else is used; without them attention on a GPU runs our own kernel, which has no tensor cores.
set(version 1.18.0)   # newer ones want the driver and NVRTC at link time
set(folder ${PROJECT_BINARY_DIR}/cudnn_frontend)
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${folder}/include)
if(NOT CUDNN_FRONTEND_INCLUDE_DIR)
  find_program(LOCKSTEP_PYTHON python3)
  file(MAKE_DIRECTORY ${folder})
  execute_process(COMMAND ${LOCKSTEP_PYTHON} -m pip download --quiet --no-deps --only-binary=:all: nvidia-cudnn-frontend==${version} -d ${folder}
                  RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  file(GLOB wheel ${folder}/*.whl)
  if(NOT failed AND wheel)
    file(ARCHIVE_EXTRACT INPUT ${wheel} DESTINATION ${folder} PATTERNS "*include/*")
    find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${folder}/include)
  endif()
endif()
