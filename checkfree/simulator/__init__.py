"""What a run would take on machines that you describe.

``rehearse`` runs the real lead with workers that hold no tensors, so schedules, keeps and repairs
are the very ones that train; ``fleet`` says how fast machines and links are, ``sizes`` what there
is to compute and to send, ``iteration`` how long one iteration is on them.
"""
