# ${Slicer_EXTENSION_CPACK}: the description of the extension (share/) and the archive that the Extensions Manager unpacks

if(POLICY CMP0177)
  cmake_policy(SET CMP0177 NEW)  # "./lib" is "lib" where something is installed
endif()

foreach(_file IN ITEMS README LICENSE)
  if(NOT EXISTS "${EXTENSION_${_file}_FILE}")
    message(FATAL_ERROR "EXTENSION_${_file}_FILE names no file: ${EXTENSION_${_file}_FILE}")
  endif()
endforeach()

# Type, address and revision of the source; "local" where it is not a checkout, as from a source archive
set(_scm local)
set(_url "${PROJECT_SOURCE_DIR}")
set(_revision NA)
find_package(Git QUIET)
if(Git_FOUND AND EXISTS "${PROJECT_SOURCE_DIR}/.git")
  execute_process(COMMAND "${GIT_EXECUTABLE}" -C "${PROJECT_SOURCE_DIR}" rev-parse --short HEAD
                  OUTPUT_VARIABLE _head OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _failed)
  if(NOT _failed)
    set(_scm git)
    set(_revision "${_head}")
    set(_url "${EXTENSION_HOMEPAGE}.git")
  endif()
endif()

set(_description "scm ${_scm}\nscmurl ${_url}\nscmrevision ${_revision}\n")
foreach(_key IN ITEMS depends recommends build_subdirectory homepage contributors category iconurl status tier
                      description screenshoturls enabled dicom_support_rule keywords)
  string(TOUPPER "EXTENSION_${_key}" _variable)
  string(APPEND _description "\n${_key} ${${_variable}}\n")
endforeach()
file(WRITE "${CMAKE_BINARY_DIR}/${EXTENSION_NAME}.s4ext" "${_description}")
install(FILES "${CMAKE_BINARY_DIR}/${EXTENSION_NAME}.s4ext" DESTINATION "${Slicer_INSTALL_ROOT}${Slicer_SHARE_DIR}"
        COMPONENT RuntimeLibraries)

set(CPACK_GENERATOR TGZ)
if(WIN32)
  set(CPACK_GENERATOR ZIP)
endif()
set(CPACK_SOURCE_GENERATOR "")
set(CPACK_MONOLITHIC_INSTALL ON)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${EXTENSION_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION_FILE "${EXTENSION_README_FILE}")
set(CPACK_RESOURCE_FILE_LICENSE "${EXTENSION_LICENSE_FILE}")
set(CPACK_PACKAGE_FILE_NAME
    "${Slicer_REVISION}-${Slicer_OS}-${Slicer_ARCHITECTURE}-${EXTENSION_NAME}-${_scm}${_revision}")
include(CPack)
