"""What a person with the keys does to a gateway, beyond listing and moving what waits."""
