"""checkfree: pipeline-parallel training that survives the loss of whole stages."""
