# What `find_package(Slicer REQUIRED)` finds on a machine without Slicer:
#
#   cmake -DSlicer_DIR=Testing/slicer-cmake -S . -B build
#   cmake --build build
#   cmake --install build --prefix <folder>
#
# The variables have the names and values that a Slicer 5.12 gives an extension; only those are here that this extension
# uses. Nothing is compiled but Python.

set(Slicer_FOUND TRUE)
set(Slicer_VERSION_MAJOR 5)
set(Slicer_VERSION_MINOR 12)
set(Slicer_VERSION 5.12.0)
set(Slicer_REVISION stand-in)
string(TOLOWER "${CMAKE_SYSTEM_NAME}" Slicer_OS)
string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" Slicer_ARCHITECTURE)

# Folders, relative to the build folder and to the folder of the installation
set(Slicer_LIB_DIR "lib/Slicer-${Slicer_VERSION_MAJOR}.${Slicer_VERSION_MINOR}")
set(Slicer_SHARE_DIR "share/Slicer-${Slicer_VERSION_MAJOR}.${Slicer_VERSION_MINOR}")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "${Slicer_LIB_DIR}/qt-scripted-modules")
set(Slicer_INSTALL_ROOT "./")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "${Slicer_INSTALL_ROOT}${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")

set(Slicer_CMAKE_DIR "${CMAKE_CURRENT_LIST_DIR}")
set(Slicer_USE_FILE "${Slicer_CMAKE_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${Slicer_CMAKE_DIR}/ExtensionConfig.cmake")
set(Slicer_EXTENSION_CPACK "${Slicer_CMAKE_DIR}/ExtensionPackage.cmake")

# There is no Slicer to start: tests are listed (`ctest -N`), and run only where a launcher is named
set(Slicer_LAUNCHER_EXECUTABLE "" CACHE FILEPATH "Slicer that runs the tests, if there is one")
