# Headers that are made: the commit that is being built (git_hash.h, looked up at each build, touched only when it changed) and the
# text of launch/plot.py (plot_script.h). Included by CMakeLists.txt; run as a script (cmake -P) it writes git_hash.h.
if(CMAKE_SCRIPT_MODE_FILE)
  execute_process(COMMAND git describe --always --dirty --abbrev=12 WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE hash
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    set(hash "unknown")
  endif()
  file(CONFIGURE OUTPUT ${OUT} CONTENT "#pragma once\n#define LOCKSTEP_GIT_HASH \"${hash}\"\n#define LOCKSTEP_VERSION \"${VERSION}\"\n" @ONLY)
else()
  set(git_hash ${CMAKE_BINARY_DIR}/generated/launch/git_hash.h)
  add_custom_target(git_hash BYPRODUCTS ${git_hash} COMMENT ""
    COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DOUT=${git_hash} -DVERSION=${PROJECT_VERSION} -P ${CMAKE_CURRENT_LIST_FILE})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/launch/plot.py)
  file(READ ${PROJECT_SOURCE_DIR}/launch/plot.py plot_script)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/launch/plot_script.h @ONLY
       CONTENT "#pragma once\ninline constexpr const char* plot_script = R\"PYTHON(@plot_script@)PYTHON\";\n")
  target_include_directories(launch PRIVATE ${CMAKE_BINARY_DIR}/generated)
  add_dependencies(launch git_hash)
endif()
