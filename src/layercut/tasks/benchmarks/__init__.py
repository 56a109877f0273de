"""Published benchmarks that layercut asks and grades itself."""
