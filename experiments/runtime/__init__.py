"""The process and its machine; knows neither networks nor pictures."""
