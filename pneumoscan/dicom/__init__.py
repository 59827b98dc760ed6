"""DICOM in, DICOM out: the films of a study are answered by a server, and its answers become objects of the study."""
