# The primary is killed while the DCS is away: it is succeeded once that is back.
nodes 3
dcs away
wait 2
kill node old
wait 10
  never any primary
dcs back
  new primary
start old
settle
