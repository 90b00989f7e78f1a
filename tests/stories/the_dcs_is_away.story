# Losing the DCS stops failover, not writes.
nodes 3
dcs away
wait 30
  never any postgres_exited
  never any election
dcs back
settle
