# Included by the extension after find_package(Slicer): its name, its tests and the functions for its modules.

if("${PROJECT_NAME}" MATCHES "^(|Slicer|Project)$")
  message(FATAL_ERROR "project(<name of the extension>) goes before include(\${Slicer_USE_FILE})")
endif()
set(EXTENSION_NAME "${PROJECT_NAME}")

# As Slicer says them where an extension says nothing
foreach(_entry IN ITEMS DEPENDS=NA RECOMMENDS=NA BUILD_SUBDIRECTORY=. ENABLED=1 TIER=1)
  string(REGEX MATCH "^([A-Z_]+)=(.*)$" _match "${_entry}")
  if(NOT DEFINED EXTENSION_${CMAKE_MATCH_1})
    set(EXTENSION_${CMAKE_MATCH_1} "${CMAKE_MATCH_2}")
  endif()
endforeach()

include(CTest)  # BUILD_TESTING, on by default

find_program(Slicer_PYTHON NAMES python3 python DOC "Python that compiles the modules")
if(NOT Slicer_PYTHON)
  message(FATAL_ERROR "No Python found to compile the modules; -DSlicer_PYTHON=<path> names one")
endif()

include("${Slicer_CMAKE_DIR}/ScriptedModule.cmake")
include("${Slicer_CMAKE_DIR}/PythonTests.cmake")
