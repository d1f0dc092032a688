# slicerMacroBuildScriptedModule(
#   NAME <name> SCRIPTS <file>... [RESOURCES <file>...] [WITH_GENERIC_TESTS] [WITH_SUBDIR] [VERBOSE])
#
# Copies the files listed, and no other, into the build tree's folder of scripted modules, each with the subfolder in
# which it is listed; with WITH_SUBDIR into a folder there that is named as this source folder. Compiles the scripts and
# installs what lies in the build tree. A file that does not exist is an error when configuring.
#
# A file outside the source folder has no place in the module: Slicer would copy one named with `..` out of the folder of
# modules, and an absolute one below it with its whole path. Slicer lets both pass; here they are errors.

if(POLICY CMP0177)
  cmake_policy(SET CMP0177 NEW)  # "./lib" is "lib" where something is installed
endif()

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(PARSE_ARGV 0 _module "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES")
  if(DEFINED _module_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: unknown words: ${_module_UNPARSED_ARGUMENTS}")
  endif()
  foreach(_needed IN ITEMS NAME SCRIPTS)
    if(NOT _module_${_needed})
      message(FATAL_ERROR "slicerMacroBuildScriptedModule: ${_needed} is missing")
    endif()
  endforeach()
  message(STATUS "Scripted module: ${_module_NAME}")

  set(_modules "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  set(_destination "${_modules}")
  if(_module_WITH_SUBDIR)
    get_filename_component(_folder "${CMAKE_CURRENT_SOURCE_DIR}" NAME)
    string(APPEND _destination "/${_folder}")
  endif()

  set(_scripts)
  foreach(_script IN LISTS _module_SCRIPTS)
    if(NOT _script MATCHES "\\.py$")
      string(APPEND _script ".py")  # Slicer's own lists leave it out
    endif()
    list(APPEND _scripts "${_script}")
  endforeach()

  _slicer_copy_listed("${_module_NAME}" Script "${_destination}" "${_scripts}")
  _slicer_compile_scripts("${_module_NAME}" "${_destination}" "${_scripts}")
  if(_module_RESOURCES)
    _slicer_copy_listed("${_module_NAME}" Resource "${_destination}" "${_module_RESOURCES}")
  endif()

  # With a subfolder that folder is installed; without one the whole folder of modules is, whoever filled it
  if(_module_WITH_SUBDIR)
    install(DIRECTORY "${_destination}" DESTINATION "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
            COMPONENT RuntimeLibraries USE_SOURCE_PERMISSIONS)
  else()
    install(DIRECTORY "${_destination}/" DESTINATION "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
            COMPONENT RuntimeLibraries USE_SOURCE_PERMISSIONS)
  endif()

  if(BUILD_TESTING AND _module_WITH_GENERIC_TESTS)
    _slicer_add_generic_test("${_module_NAME}" "${_modules}")
  endif()
endfunction()

# Target Copy<name>Python<kind>Files: the listed files in the build tree, copied again when they change
function(_slicer_copy_listed name kind destination files)
  set(_copies)
  foreach(_file IN LISTS files)
    if(IS_ABSOLUTE "${_file}" OR _file MATCHES "(^|/)\\.\\.(/|$)")
      message(FATAL_ERROR "${name}: '${_file}' does not lie below ${CMAKE_CURRENT_SOURCE_DIR}")
    endif()
    set(_source "${CMAKE_CURRENT_SOURCE_DIR}/${_file}")
    if(NOT EXISTS "${_source}" OR IS_DIRECTORY "${_source}")
      message(FATAL_ERROR "${name}: there is no file '${_file}' in ${CMAKE_CURRENT_SOURCE_DIR}")
    endif()
    add_custom_command(
      OUTPUT "${destination}/${_file}"
      COMMAND "${CMAKE_COMMAND}" -E copy "${_source}" "${destination}/${_file}"
      DEPENDS "${_source}"
      COMMENT "Copying ${_file}"
      VERBATIM
      )
    list(APPEND _copies "${destination}/${_file}")
  endforeach()
  add_custom_target(Copy${name}Python${kind}Files ALL DEPENDS ${_copies})
endfunction()

# Target Compile<name>PythonFiles: byte code beside the scripts; a script that cannot be compiled stops the build
function(_slicer_compile_scripts name destination files)
  set(_list "${CMAKE_CURRENT_BINARY_DIR}/compile_${name}.txt")
  set(_stamp "${CMAKE_CURRENT_BINARY_DIR}/python_compile_${name}_complete")
  list(TRANSFORM files PREPEND "${destination}/" OUTPUT_VARIABLE _paths)
  list(JOIN _paths "\n" _lines)
  file(GENERATE OUTPUT "${_list}" CONTENT "${_lines}\n")
  add_custom_command(
    OUTPUT "${_stamp}"
    COMMAND "${Slicer_PYTHON}" -m compileall -q -f -i "${_list}"
    COMMAND "${CMAKE_COMMAND}" -E touch "${_stamp}"
    DEPENDS ${_paths} Copy${name}PythonScriptFiles "${_list}"
    COMMENT "Compiling Python of ${name}"
    VERBATIM
    )
  add_custom_target(Compile${name}PythonFiles ALL DEPENDS "${_stamp}")
endfunction()
