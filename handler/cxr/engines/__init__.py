"""The engines that compute the feature map: PyTorch as the reference, OpenVINO on a CPU, CUDA graphs on a GPU."""
