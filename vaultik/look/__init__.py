"""What is in snapshots: found, compared, counted, asked for by SQL. It works on copies (`snapshot.read`) and changes nothing."""
