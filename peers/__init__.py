"""Who else knows: identity, handshake, wire, exchange of batches and contents, invites.

Imports store alone. Decides nothing about files: what arrives goes to the replica it was given.
"""
