"""How far apart the predictions of independent runs are: churn (Anil et al. 2018, section 3.5)."""
