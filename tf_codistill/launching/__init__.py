"""How the processes of a run start, and who watches over them."""
