"""What MMDetection does around its layers, in ONNX: priors, decoding, NMS, RoIs."""
