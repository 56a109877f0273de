"""Tables, plots, reports and model cards made from run folders alone; never imports torch."""
