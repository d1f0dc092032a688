"""SampleData: other modules' sample data are registered with it and loaded by name; only local files (file: URIs) here.

Other URIs are a ValueError: nothing is ever fetched over the network.
"""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import slicer
import vtk


class SampleDataSource:
    """One sample: where its files are and how they are loaded. Lists of one length, or single values."""

    def __init__(
        self,
        sampleName=None,
        sampleDescription=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFileProperties=None,
        loadFileType=None,
    ) -> None:
        if loadFileType is not None and loadFileTypes is not None:
            raise ValueError("loadFileType and loadFileTypes cannot be specified at the same time")
        several = isinstance(uris, list | tuple)
        count = len(uris) if several else 1
        kinds = loadFileType if loadFileTypes is None else loadFileTypes
        if several:
            self.uris, self.fileNames = uris, fileNames
            self.nodeNames = nodeNames if nodeNames is not None else [None] * count
            self.loadFiles = loadFiles if loadFiles is not None else [None] * count
            self.checksums = checksums if checksums is not None else [None] * count
            self.loadFileTypes = [kinds] * count if kinds is None or isinstance(kinds, str) else kinds
        else:
            self.uris, self.fileNames, self.nodeNames = [uris], [fileNames], [nodeNames]
            self.loadFiles, self.checksums, self.loadFileTypes = [loadFiles], [checksums], [kinds]
        self.sampleName = sampleName
        self.sampleDescription = sampleName if sampleDescription is None else sampleDescription
        self.customDownloader = customDownloader
        self.thumbnailFileName = thumbnailFileName
        self.loadFileProperties = {} if loadFileProperties is None else loadFileProperties
        listed = (self.fileNames, self.nodeNames, self.loadFiles, self.loadFileTypes, self.checksums)
        if any(len(each) != count for each in listed):
            raise ValueError("All fields of sample data source must have the same length")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleDataSource) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class SampleDataLogic:
    """Registers samples in slicer.modules.sampleDataSources (category -> list) and loads them."""

    def __init__(self, logMessage: Any = None) -> None:
        if logMessage:
            self.logMessage = logMessage
        sources()

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        if not hasattr(slicer.modules, "sampleDataSourceCategories"):
            slicer.modules.sampleDataSourceCategories = {}
        slicer.modules.sampleDataSourceCategories.setdefault(category, {})["title"] = title

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
        loadFileType=None,
    ) -> None:
        source = SampleDataSource(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            customDownloader=customDownloader,
            thumbnailFileName=thumbnailFileName,
            loadFileTypes=loadFileTypes,
            loadFiles=loadFiles,
            loadFileProperties=loadFileProperties,
            checksums=checksums,
            loadFileType=loadFileType,
        )
        listed = sources().setdefault(category, [])
        if source not in listed:
            listed.append(source)

    @staticmethod
    def categoryTitle(category: str) -> str:
        titles = getattr(slicer.modules, "sampleDataSourceCategories", {})
        return titles.get(category, {}).get("title", category)

    @staticmethod
    def sampleDataSourcesByCategory(category: str | None = None) -> Any:
        return sources() if category is None else sources().get(category, [])

    @staticmethod
    def isSampleDataSourceRegistered(category: str, sampleDataSource: SampleDataSource) -> bool:
        return sampleDataSource in sources().get(category, [])

    def sourceForSampleName(self, sampleName: str) -> SampleDataSource | None:
        return next((each for listed in sources().values() for each in listed if each.sampleName == sampleName), None)

    def categoryForSource(self, a_source: SampleDataSource) -> str | None:
        return next((category for category, listed in sources().items() if a_source in listed), None)

    def downloadSamples(self, sampleName: str) -> list[Any]:
        source = self.sourceForSampleName(sampleName)
        return self.downloadFromSource(source) if source else []

    def downloadSample(self, sampleName: str) -> Any:
        return self.downloadSamples(sampleName)[0]

    def downloadSourceIntoCache(self, source: SampleDataSource) -> list[str]:
        files = zip(source.uris, source.fileNames, source.checksums, strict=True)
        return [self.downloadFileIntoCache(uri, name, checksum) for uri, name, checksum in files]

    def downloadFileIntoCache(self, uri, name, checksum=None, forceDownload=False) -> str:
        """A file that is there already is taken; one with another checksum is removed, and loading it then fails."""
        target = Path(slicer.mrmlScene.GetCacheManager().GetRemoteCacheDirectory()) / name
        algorithm, digest = slicer.util.extractAlgoAndDigest(checksum)
        known = target.exists() and (algorithm is None or slicer.util.computeChecksum(algorithm, str(target)) == digest)
        if forceDownload or not known:
            parsed = urlparse(uri)
            if parsed.scheme != "file":
                raise ValueError(f"Failed to download {uri} to {target}: nothing is fetched over the network here")
            shutil.copyfile(url2pathname(unquote(parsed.path)), target)
            if algorithm is not None and slicer.util.computeChecksum(algorithm, str(target)) != digest:
                self.logMessage(f"Checksum verification failed. {name} has another than {checksum}", logging.ERROR)
                target.unlink()
        return str(target)

    def downloadFromURL(
        self,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        loadFileTypes=None,
        loadFileProperties=None,
        forceDownload=False,
    ) -> list[Any]:
        source = SampleDataSource(
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            loadFiles=loadFiles,
            loadFileTypes=loadFileTypes,
            loadFileProperties=loadFileProperties,
            checksums=checksums,
            customDownloader=customDownloader,
        )
        return self.downloadFromSource(source, forceDownload=forceDownload)

    def downloadFromSource(self, source, maximumAttemptsCount=3, forceDownload=False) -> list[Any]:
        """Loaded nodes, or the paths of the files where none is loaded.

        A node's name in the source means that the file is loaded; with no names at all, names are made of the files'.
        """
        unnamed = all(name is None for name in source.nodeNames)
        loaded, paths = [], []
        for index, uri in enumerate(source.uris):
            name = source.fileNames[index] or Path(urlparse(uri).path).name
            path = self.downloadFileIntoCache(uri, name, source.checksums[index], forceDownload)
            node_name, wanted = source.nodeNames[index], source.loadFiles[index]
            kind = source.loadFileTypes[index]
            is_scene = kind == "SceneFile" or (kind is None and name.lower().endswith((".mrb", ".mrml")))
            if node_name is None and unnamed and wanted is not False:
                node_name = Path(name).stem
            if is_scene:
                if wanted:
                    self.loadScene(path, dict(source.loadFileProperties))
                paths.append(path)
            elif node_name and wanted is not False:
                node = self.loadNode(path, node_name, kind, dict(source.loadFileProperties))
                if node is not None:
                    loaded.append(node)
            else:
                paths.append(path)
        return loaded or paths

    def loadScene(self, uri: str, fileProperties: Any = None) -> bool:
        return self.loadNode(uri, None, "SceneFile", fileProperties) is not None

    def loadNode(self, uri: str, name: str | None, fileType: str | None = None, fileProperties: Any = None) -> Any:
        """The first node of a file, or the scene; None where loading failed. Nodes forget their file in the cache."""
        properties = dict(fileProperties or {}) | {"fileName": uri}
        if name:
            properties["name"] = name
        nodes = vtk.vtkCollection()
        kind = fileType or slicer.app.coreIOManager().fileType(uri)
        if not slicer.app.coreIOManager().loadNodes(kind, properties, nodes) and nodes.GetNumberOfItems() == 0:
            self.logMessage("Load failed!", logging.ERROR)
            return None
        for node in nodes:
            storage = node.GetStorageNode() if node.IsA("vtkMRMLStorableNode") else None
            if storage is not None:
                slicer.mrmlScene.RemoveNode(storage)
                node.SetAndObserveStorageNodeID(None)
        return nodes.GetItemAsObject(0) or slicer.mrmlScene

    def logMessage(self, message: str, logLevel: int = logging.DEBUG) -> None:
        logging.log(logLevel, message)


def sources() -> dict[str, list[SampleDataSource]]:
    """Category -> samples."""
    if not hasattr(slicer.modules, "sampleDataSources"):
        slicer.modules.sampleDataSources = {}
    return slicer.modules.sampleDataSources


def click(sampleName: str) -> Any:
    """As the button of the sample in SampleData's panel: by the source's own downloader, if it has one."""
    logic = SampleDataLogic()
    source = logic.sourceForSampleName(sampleName)
    if source is None:
        raise KeyError(sampleName)
    return source.customDownloader(source) if source.customDownloader else logic.downloadFromSource(source)


def install() -> None:
    """Set the module SampleData."""
    module = ModuleType("SampleData")
    module.SampleDataLogic, module.SampleDataSource = SampleDataLogic, SampleDataSource
    module.downloadSample = lambda sampleName: SampleDataLogic().downloadSample(sampleName)
    module.downloadSamples = lambda sampleName: SampleDataLogic().downloadSamples(sampleName)
    module.downloadFromURL = lambda *given, **named: SampleDataLogic().downloadFromURL(*given, **named)
    sys.modules["SampleData"] = module
    sources()
