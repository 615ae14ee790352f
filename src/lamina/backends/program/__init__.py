"""What backends share: from the candidates of each node to the steps of a program."""
