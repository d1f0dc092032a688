"""The rooms behind the Slicer module.

They know MRML and Qt, and of the engine only the rooms that need no torch: the panel opens before torch is installed.
Torch works in a process of its own, behind the worker.
"""
