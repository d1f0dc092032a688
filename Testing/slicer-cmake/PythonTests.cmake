# slicer_add_python_unittest(SCRIPT <file> [SLICER_ARGS <word>...] [TESTNAME_PREFIX <prefix>])
#
# Adds the test py_<prefix><file without ending>, in which Slicer runs the unittest cases of the file from the source
# folder or the build folder. Without a launcher the test is listed and not run.

function(slicer_add_python_unittest)
  cmake_parse_arguments(PARSE_ARGV 0 _test "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS")
  get_filename_component(_name "${_test_SCRIPT}" NAME_WE)
  get_filename_component(_folder "${_test_SCRIPT}" DIRECTORY)
  if(_folder STREQUAL "")
    set(_folder "${CMAKE_CURRENT_SOURCE_DIR}")
  endif()
  if(NOT EXISTS "${_folder}/${_name}.py" AND NOT EXISTS "${CMAKE_CURRENT_BINARY_DIR}/${_name}.py")
    message(FATAL_ERROR "slicer_add_python_unittest: there is no file '${_test_SCRIPT}'")
  endif()

  set(_program "${Slicer_LAUNCHER_EXECUTABLE}")
  if(NOT _program)
    set(_program Slicer)
  endif()
  set(_folders "['${CMAKE_CURRENT_BINARY_DIR}', '${_folder}']")
  set(_test "py_${_test_TESTNAME_PREFIX}${_name}")
  add_test(
    NAME ${_test}
    COMMAND "${_program}" --no-splash --testing ${_test_SLICER_ARGS}
            --additional-module-paths "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}"
            --python-code "import slicer.testing; slicer.testing.runUnitTest(${_folders}, '${_name}')"
    )
  set_tests_properties(${_test} PROPERTIES RUN_SERIAL TRUE)
  if(NOT Slicer_LAUNCHER_EXECUTABLE)
    set_tests_properties(${_test} PROPERTIES DISABLED TRUE)
  endif()
endfunction()

# The test that Slicer adds for every module: it is there, it describes itself, and its widget comes up
function(_slicer_add_generic_test name modules)
  string(TOLOWER "${name}" _attribute)
  set(_script "qSlicer${name}ModuleGenericTest")
  file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/${_script}.py" @ONLY CONTENT [[
import unittest

import slicer


class @_script@(unittest.TestCase):
    def setUp(self):
        self.module = slicer.modules.@_attribute@

    def test_description(self):
        self.assertEqual(self.module.name, "@name@")
        for text in (self.module.categories, self.module.acknowledgementText, self.module.contributors):
            self.assertTrue(text)

    def test_widget(self):
        self.assertEqual(self.module.widgetRepresentation(), self.module.widgetRepresentation())
]])
  slicer_add_python_unittest(
    SCRIPT ${_script}.py
    SLICER_ARGS --no-main-window --disable-cli-modules --additional-module-path "${modules}"
    TESTNAME_PREFIX nomainwindow_
    )
endfunction()
