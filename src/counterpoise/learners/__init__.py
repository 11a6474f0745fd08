"""What trains: the classes that methods of several rooms are made of."""
