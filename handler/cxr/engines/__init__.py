"""What computes the feature map: PyTorch as the reference, OpenVINO on a CPU, CUDA graphs on a GPU."""
