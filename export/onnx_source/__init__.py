"""Read an ONNX file as a source of the export: its dropout, its images and its output.

In: an ONNX file of another program, such as PyTorch's exporter. Out: a `Source`, with a graph in which the chosen
Dropout nodes are sites, and a reference that runs the file in onnxruntime. No framework is needed.
"""
