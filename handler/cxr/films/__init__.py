"""From the bytes of a file to a film: formats, DICOM, damaged streams, and whether it is a frontal view."""
