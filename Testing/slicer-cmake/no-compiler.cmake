# Toolchain for machines without a compiler: `project()` looks for one, and nothing here needs it.
#
#   cmake --toolchain Testing/slicer-cmake/no-compiler.cmake …

foreach(_language IN ITEMS C CXX)
  set(CMAKE_${_language}_COMPILER "${CMAKE_COMMAND}")
  set(CMAKE_${_language}_COMPILER_ID None)
  set(CMAKE_${_language}_COMPILER_ID_RUN TRUE)
  set(CMAKE_${_language}_COMPILER_FORCED TRUE)
endforeach()
