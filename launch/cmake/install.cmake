# cmake --install build/cpu --prefix <folder>: bin/lockstep, five shared libraries, the public headers and a CMake package.
# Another project says find_package(lockstep) and links lockstep::lockstep, or only the layers it uses (lockstep::core, …).
# The libraries are shared, so a program on top of them needs none of the packages that Lockstep was built with.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)

# The program finds the libraries beside itself, the libraries each other, wherever the folder is moved.
set_target_properties(lockstep PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
set_target_properties(kernels core parallel io launch PROPERTIES INSTALL_RPATH "$ORIGIN" INSTALL_RPATH_USE_LINK_PATH TRUE)

install(TARGETS kernels core parallel io launch lockstep_library EXPORT lockstep
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS lockstep RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT lockstep NAMESPACE lockstep:: DESTINATION ${package} FILE lockstepConfig.cmake)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake DESTINATION ${package})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/lockstep)

lockstep_public_headers(headers)
foreach(header IN LISTS headers)
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep/${folder})
endforeach()
