"""SmartDeal: weights as power-of-two coefficients times tiny bases, nested by what each level keeps."""
