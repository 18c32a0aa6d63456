"""Read an ONNX file as a source of the export: its dropout, its images and its output.

In: an ONNX file that another program wrote, such as PyTorch's exporter. Out: a `Source`, with a graph in which the
chosen Dropout nodes are sites, and a reference that runs the file in onnxruntime. Neither TensorFlow nor PyTorch is
needed.
"""
